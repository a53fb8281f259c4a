"""What a terminal says about its data: statistics, differential privacy and its ledger."""
