"""The folder for nnU-Net's variable `nnUNet_extTrainer`; nnU-Net imports every module in it by its bare name."""
