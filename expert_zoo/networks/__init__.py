"""What experts with a torch network share: the way from a photo to the device and back, and from a checkpoint to a network.

``network_expert``  the class they derive from; ``preprocess``, ``upload``  photo -> input on the device;
``state_dict``, ``pretrained``, ``tokenizer_file``  files of a checkpoint -> network; ``seeding``  checkpoints of random weights.
"""
