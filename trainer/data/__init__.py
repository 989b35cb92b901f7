"""From a store of labels to batches on a device: read, shuffled, cut, turned and put together, the same on every machine.

``selection``  which images an epoch has, and how often
``order``      the places of an epoch in shuffled order; ``chance`` random numbers that depend on nothing but their keys
``geometry``   where every pixel of a training image lies in its photo; ``augmentation`` how that is drawn, and changes of colour
``warping``    a photo, a label map, boxes, polygons by such a geometry
``examples``   one image with its labels at training size; ``dataset`` all of a store's
``batch``      many of them as tensors, small enough to send; ``loader`` batch after batch, with a state to resume from
``finish``     what is large, made of a batch on the device
"""
