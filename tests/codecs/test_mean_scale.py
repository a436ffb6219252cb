"""The design; its law is in test_latent_coding."""

import jaxcomp as jc


def test_the_design_is_that_of_the_paper():
    codec = jc.codecs.mean_scale()
    design = codec.init.args[0]
    assert codec.name == design.name == "mean_scale" and sum(design.slices) == 640
    assert design.means is True and design.passes == ()
    assert len(design.slices) == 1
