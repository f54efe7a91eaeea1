"""The quickstart's adapters and router, and the generators that rebuild them; in no wheel."""
