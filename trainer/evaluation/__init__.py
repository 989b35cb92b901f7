"""How good a model is: what it says of photos, and what the official measures say of that.

``captions``  CIDEr, BLEU, ROUGE, METEOR and SPICE of captions; ``words_of_text`` cuts them into words, with Java or without
``answers``   the official accuracy of VQA, lists of answers to choose from
``questions`` questions about photos and where they come from
``tasks``     captioning, answering, classifying: what is asked of a model, and how what it says is scored; ``speaker`` how it is
asked, and ``prismer_speaker`` how a Prismer replies
``run``       batch after batch through a model, gone on with where it was broken off; ``result_files`` for the servers
"""
