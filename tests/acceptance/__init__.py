"""The whole product, used from outside as its users do."""
