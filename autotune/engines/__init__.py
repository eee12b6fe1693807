"""Engines that run trials: the protocol, and one module per engine."""
