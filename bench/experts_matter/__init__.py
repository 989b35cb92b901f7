"""Do experts help? A tiny PrismerZ and tiny Prismers learn from the same rendered scenes, question by question.

``experts``   an expert that says nothing, and depth that is wrong for some photos
``arms``      what is compared, and everything that decides a run
``learning``  one run: captions and questions learned at once, then both asked for
``report``    runs as a table and a plot

python -m bench.experts_matter
"""
