"""The product page by the libraries that business uses too, each as its documentation has it."""
