# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What readers are told of the methods, and the papers that they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """
    A reference.

    Attributes:
        name, title, authors, venue, arxiv (`str`): What it is cited for, its title, authors, venue and arXiv number.
        bibtex (`str`): Its BibTeX entry.
    """

    name: str
    title: str
    authors: str
    venue: str
    arxiv: str
    bibtex: str


CAROT = Paper(
    name="CaRot",
    title="Towards Calibrated Robust Fine-Tuning of Vision-Language Models",
    authors="Oh et al.",
    venue="NeurIPS 2024",
    arxiv="2311.01723",
    bibtex="""\
@inproceedings{oh2024towards,
  title     = {Towards Calibrated Robust Fine-Tuning of Vision-Language Models},
  author    = {Oh, Changdae and Lim, Hyesu and Kim, Mijoo and Han, Dongyoon and
               Yun, Sangdoo and Choo, Jaegul and Hauptmann, Alexander and
               Cheng, Zhi-Qi and Song, Kyungwoo},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {37},
  year      = {2024},
}""",
)
FLYP = Paper(
    name="FLYP",
    title="Finetune like you pretrain: Improved finetuning of zero-shot vision models",
    authors="Goyal et al.",
    venue="CVPR 2023",
    arxiv="2212.00638",
    bibtex="""\
@inproceedings{goyal2023finetune,
  title     = {Finetune like you pretrain: Improved finetuning of zero-shot vision models},
  author    = {Goyal, Sachin and Kumar, Ananya and Garg, Sankalp and Kolter, Zico and
               Raghunathan, Aditi},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023},
}""",
)
WISE_FT = Paper(
    name="WiSE-FT",
    title="Robust fine-tuning of zero-shot models",
    authors="Wortsman et al.",
    venue="CVPR 2022",
    arxiv="2109.01903",
    bibtex="""\
@inproceedings{wortsman2022robust,
  title     = {Robust fine-tuning of zero-shot models},
  author    = {Wortsman, Mitchell and Ilharco, Gabriel and Kim, Jong Wook and Li, Mike and
               Kornblith, Simon and Roelofs, Rebecca and Gontijo-Lopes, Raphael and
               Hajishirzi, Hannaneh and Farhadi, Ali and Namkoong, Hongseok and
               Schmidt, Ludwig},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
}""",
)

CROFT = Paper(
    name="CRoFT",
    title="CRoFT: Robust Fine-Tuning with Concurrent Optimization for OOD Generalization and Open-Set OOD Detection",
    authors="Zhu et al.",
    venue="ICML 2024",
    arxiv="2405.16417",
    bibtex="""\
@inproceedings{zhu2024croft,
  title     = {{CRoFT}: Robust Fine-Tuning with Concurrent Optimization for {OOD} Generalization
               and Open-Set {OOD} Detection},
  author    = {Zhu, Lin and Yang, Yifeng and Gu, Qinying and Wang, Xinbing and
               Zhou, Chenghu and Ye, Nanyang},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {235},
  year      = {2024},
}""",
)


@dataclass(frozen=True)
class MethodFacts:
    """
    How a card describes a method.

    Attributes:
        label (`str`): Its name in a table.
        phrase (`str`): How it continues a sentence that begins with the name of the model.
        summary (`str`): What it does.
        papers (`tuple[Paper, ...]`): The papers to cite.
        trains (`bool`, *optional*, defaults to `True`): Whether there was a training run at all.
    """

    label: str
    phrase: str
    summary: str
    papers: tuple[Paper, ...]
    trains: bool = True


#: By short name, for cards, which know of no Trainer; a class of another method adds itself.
METHOD_FACTS = {
    "carot": MethodFacts(
        "CaRot",
        "fine-tuned with CaRot",
        "CaRot trains both towers with the contrastive loss on images and captions (as FLYP), keeps the visual "
        "projection near orthogonality, and distils from a moving average of its own weights.",
        (CAROT, FLYP),
    ),
    "flyp": MethodFacts(
        "FLYP",
        "fine-tuned with FLYP",
        "FLYP trains both towers with the contrastive loss of pretraining on images and captions.",
        (FLYP,),
    ),
    "ft": MethodFacts(
        "FT",
        "fine-tuned in the ordinary way (FT)",
        "Ordinary fine-tuning trains the image tower and a linear head, started from the zero-shot classifier, with "
        "cross-entropy; it is the baseline of WiSE-FT.",
        (WISE_FT,),
    ),
    "wise_ft": MethodFacts(
        "WiSE-FT",
        "interpolated with its fine-tuned self (WiSE-FT)",
        "WiSE-FT interpolates the weights of the zero-shot and of a fine-tuned model.",
        (WISE_FT,),
    ),
    "croft": MethodFacts(
        "CRoFT",
        "fine-tuned with CRoFT",
        "CRoFT keeps both towers frozen and trains a linear adapter on their image and text features: with cross-entropy, "
        "also on features that a learned generator shifts (worst-case covariate shift), and with a penalty on the gradient "
        "of the energy, the score that tells unseen classes. The adapters are merged into the model's projections.",
        (CROFT,),
    ),
    "carot+croft": MethodFacts(
        "CaRot + CRoFT",
        "fine-tuned with CaRot and CRoFT together",
        "CaRot trains both towers with the contrastive loss on images and captions, keeps the visual projection near "
        "orthogonality, and distils from a moving average of its own weights; CRoFT's adapters, generator of shifted "
        "features and penalty on the gradient of the energy are trained along with them. This combination is "
        "hf_robustft's own: neither paper contains it.",
        (CAROT, FLYP, CROFT),
    ),
    "zero_shot": MethodFacts(
        "zero-shot", "not fine-tuned", "There was no training: the weights are those of the start.", (), trains=False
    ),
}
