"""A store's labels in the layouts that other programs read.

``run``         the main path: shard after shard, resumable, verified against the store
``pieces``      what the files of a shard are made of, and whether they are finished
``layout``      what a layout is: which columns it takes, and the files that it makes of a shard
``files``       where these files go: written, or compared with what is there
``record``      export.json and the receipts: what makes an export whole
``claim``       one export at a time in one place
``webdataset``  one tar a shard
``hf``          Parquet that Hugging Face's datasets shows as pictures
``coco``        results as COCO's tools read them; ``rle`` for masks

The tree of files for Prismer's released code is a layout too: jobs/prismer_tree.
"""
