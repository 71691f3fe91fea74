"""The model registry: registering and promoting versions, finding them again, serving them."""
