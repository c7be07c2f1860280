"""`bertft distill`: trained pipelines, the teachers, into one with a smaller encoder, the student."""
