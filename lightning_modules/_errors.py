"""What can go wrong with a model. The runner maps it to a reason a job can end.

ModelError      a combination of parameters, or a model and data, that cannot work together
"""


class ModelError(ValueError):
    """Say in one line which parameters cannot go together, and the mend."""
