"""Exercises: what is asked is data (``library``), what is checked is measured in a run of the site.

Layout, each module on those above it: ``model`` (the files), ``evidence`` (what there is to look at), ``cases`` (what a
student is given to investigate), ``variants`` (a site with a student's zones and conduits), ``checks``, ``packs`` (a
student's folder), ``grading``.
"""
