"""The stages of a study, one file each: they carry tables between the rooms and hold no science."""
