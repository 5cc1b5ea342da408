"""What is done with a trained model beside prediction: exported, verified, described, installed, packaged."""
