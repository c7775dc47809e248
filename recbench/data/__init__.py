"""Data: what a dataset is (cards), its bytes (files), its tables (readers, source), and what is made of them.

``protocols`` turn tables into train, validation and test, which the ``store`` keeps; ``statistics`` and ``describe``
count what is there; ``own`` makes cards of the user's own files.
"""
