"""Write the table of bad inputs and their errors, from the list that the tests go through.

    python docs/bad_inputs.py

`tests/test_bad_inputs.py` checks each row of it.
"""
