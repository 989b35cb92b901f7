"""Prismer: a photo and what experts say of it, to text.

``config``      sizes, experts, vocabulary: what decides the shape of every parameter
``model``       Prismer: encode, loss, generate, rank, freeze
``vision``      photo and label maps to visual tokens (``stems``, ``resampler`` below it)
``decoder``     tokens so far and visual tokens to the next token (``cache`` for decoding)
``text``        token ids of prompts and answers as batches; ``loss`` over them
``generation``  greedy and beam search; ``ranking`` of given answers
``backbones``   CLIP's and RoBERTa's weights in; ``released`` the published checkpoints; ``checkpoint`` our own files

Source: Liu, Fan, Johns, Yu, Xiao, Anandkumar, "Prismer: A Vision-Language Model with Multi-Task Experts", arXiv:2303.02506.
"""
