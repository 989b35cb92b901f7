"""Labels as the tree of files that the released code of Prismer trains from: a layout of `pipeline.exports`.

It stands here and not beside the others because its names are those of experts, and its vectors are files of PyTorch.

``layout``   the photos, the lists, and which column is which expert
``image``    the files of an image's labels
``places``   what they are called
``maps``     the pictures in them
``vectors``  what stands for words and classes
"""
