"""The network: backbones, NTRENet in the paper's and the released form, checkpoints."""
