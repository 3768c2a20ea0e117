"""How agents are trained: the loop, its devices, its compiled programs, and when it has gone wrong."""
