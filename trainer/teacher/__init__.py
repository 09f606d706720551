"""Teachers that other programs made: their state dicts, exported networks, stored maps, and several as one."""
