"""Training of vision-language models on photos and their expert labels.

``loop``        trains any method, on one process or many, and goes on exactly where it was interrupted
``method``      what a method is: a model with a loss
``data``        from a label store to batches
``embeddings``  from class names and words to vectors
``prismer``     the first method: the model, its decoding, and the ways of its weights in and out
"""
