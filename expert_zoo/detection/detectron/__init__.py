"""detectron2 as a library that may be missing: what a driver without it knows of a configuration, and what a worker does with it.

``zoo`` the model zoo as a table; ``configuration`` the contents of a configuration, read without running it; ``weight_file``
its checkpoints, read without unpickling code; ``network`` the built network; ``seeds`` the same with random weights.
"""
