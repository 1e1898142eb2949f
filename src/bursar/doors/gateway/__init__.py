"""The gateway: the engine behind the providers' own endpoints, with the admin API beside them."""
