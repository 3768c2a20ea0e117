"""How good a policy is: playing, statistics, tables and curves."""
