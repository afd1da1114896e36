"""Workers in which the place of guest code is taken by native code that wants out."""
