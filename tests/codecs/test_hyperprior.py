"""The design; its law is in test_latent_coding."""

import jaxcomp as jc
from jaxcomp.codecs.latent_codec import networks


def test_the_design_is_that_of_the_paper():
    codec = jc.codecs.hyperprior()
    design = codec.init.args[0]
    assert codec.name == design.name == "hyperprior" and sum(design.slices) == 640
    assert design.means is False and design.passes == ()
    assert len(design.slices) == 1 and networks(design).prior.means is False
