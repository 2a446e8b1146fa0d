"""Sweeps of many trainings: axes (what varies), plan (the groups this makes), parts (of a group), costs, record (on disk)."""
