"""The whole product, used from outside as users do."""
