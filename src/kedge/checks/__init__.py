"""What the final image lacks or carries that it should not: checks that need its files, after the stages are built.

Owns looking, and what is made of what is seen. Does not know how the image was built, nor how warnings are silenced or
shown: rules are in `kedge.dockerfile.lint_image_rules`, the wiring is the builder's. Opens layers that are here; never
fetches one.
"""
