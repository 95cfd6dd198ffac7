"""Does low-communication training hold its loss? Many devices simulated over the worker's and the merge's functions."""
