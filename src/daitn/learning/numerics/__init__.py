"""Numbers made at terminals: training steps, optimizers, measuring, averaging. torch is imported by the modules."""
