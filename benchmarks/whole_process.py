"""A whole `search work`, from the command to its end: 16 short trials, by this version and by another one.

    python -m benchmarks.whole_process --against FOLDER --blocks 5

48 drawn pictures at 128 pixels, a U-Net on ResNet-101 as teacher with two stored views, students of width 8 and 16 dealt
evenly, 2 epochs, 8 slots, one rank. Every process has a database, a folder of runs and a cache of its own, all empty, so
that decoding and the teacher's passes are in it. *Start*: the seconds until it says that its first epoch is over, less
the seconds that it says of that epoch's... which other versions count otherwise, so it is this version's alone.
"""
