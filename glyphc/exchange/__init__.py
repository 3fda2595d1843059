"""The roles as files: who makes, holds and reads what when client and server are two machines.

``container`` is the file format of all of them, ``headers`` what each kind of file says of itself; ``client`` needs the
secret, ``server`` cannot reach it.
"""
