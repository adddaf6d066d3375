"""ImageNet's archives as folders of images, one for each class."""
