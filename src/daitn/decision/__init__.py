"""Pure choice: feasibility, visit sequence, hyper-parameters, keep or roll back."""
