"""The design; its law is in test_latent_coding, its claim in test_latent_prior."""

import jaxcomp as jc


def test_the_design_is_that_of_the_paper():
    codec = jc.codecs.channel_conditional()
    design = codec.init.args[0]
    assert codec.name == design.name == "channel_conditional" and sum(design.slices) == 768
    assert design.means is True and design.passes == (3, 2, 2)
    assert len(design.slices) > 4 and list(design.slices) == sorted(design.slices)
