"""Shows hippo_nnunet's trainers to nnU-Net. `hippo-nnunet register` writes it, `hippo-nnunet unregister` removes it."""

import contextlib

with contextlib.suppress(ImportError):  # hippo_nnunet may have been uninstalled: nnU-Net goes on without it
    from hippo_nnunet.nnunet.registration import trainer_attribute as __getattr__  # noqa: F401
