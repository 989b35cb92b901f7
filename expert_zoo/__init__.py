"""Frozen experts and the contract between an expert and everything that stores or trains on its labels.

``labels``  what an expert says of one image; ``spec`` what a label means; ``card`` what the expert is;
``expert``  the interface; ``catalog`` the table of names. One file (or package) per expert beside them.
"""
