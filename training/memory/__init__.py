"""Training within little memory: predict the peak of a step, choose what to train under a limit, train it leanly."""
