"""Coverage-guided fuzzing of all that strangers write, and the inputs that it has saved.

`make fuzz` runs it and adds to `corpus/`; tests/unit/test_fuzz_corpus.py replays what is saved there.
"""
