"""Risk assessment by the steps of IEC 62443-3-2, with likelihood and consequence from runs.

Files are in ``model``, steps in ``steps``, runs in ``measure``, papers in ``documents``, and what has changed since an
earlier assessment in ``review``.
"""
