"""Writes a network to a file that other programs run: ONNX, torch.export, TorchScript."""
