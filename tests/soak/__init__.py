"""What takes too long for the suite: fuzzing, killing, full disks.  ``make soak`` runs all; each runs by itself, too.

Every driver prints how many inputs or faults it tried and what survived them, and fails on the first that did not.
"""
