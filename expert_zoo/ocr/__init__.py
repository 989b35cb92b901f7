"""Experts for text in the photo: ``rapid`` (PP-OCR), ``easy`` (CRAFT and CRNN); ``words`` is what both do with lines."""
