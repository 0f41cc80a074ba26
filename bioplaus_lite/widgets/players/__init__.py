"""The step players of the chapters, one file each: they walk through one example, or through trainings."""
