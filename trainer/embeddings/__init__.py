"""Names of classes and words on signs as vectors: what a class map or a box says, in a form in which kinds of things are near.

``writing``  makes a folder of tables for a store, once: one table for each list of classes, and one of all words that were read.
``folder``   opens it; ``lookup`` is the module that puts vectors in the place of ids, on the device.

The vectors are CLIP's text embeddings, reduced to 64 channels; where CLIP is not at hand, random ones that say so.
Source: Prismer, arXiv:2303.02506, section 3.
"""
