"""The tools layer: what all other layers stand on, as services with a contract (`service`), a state and a view."""
