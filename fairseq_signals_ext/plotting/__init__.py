"""Pictures of recordings that a clinician recognises."""
