"""Where decisions are kept: signed, with a time to live, in Redis or in memory."""
