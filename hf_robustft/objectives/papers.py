# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What readers are told of the methods, and the papers that they come from."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

_CVPR = "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition"
_ICML = "Proceedings of the {} International Conference on Machine Learning"
_ICLR = "International Conference on Learning Representations"
_NEURIPS = "Advances in Neural Information Processing Systems"
#: A word with a second capital, such as CRoFT or OOD, which BibTeX styles would write small.
_ACRONYM = re.compile(r"\b\w*[A-Z]\w*[A-Z]\w*\b")


@dataclass(frozen=True)
class Paper:
    """
    A reference.

    Attributes:
        name, title, arxiv (`str`): What it is cited for, its title and its arXiv number.
        author (`str`): All authors as BibTeX has them, `"Oh, Changdae and Lim, Hyesu"`.
        venue (`str`): In short, with the year: `"NeurIPS 2024"`.
        key (`str`): Of its BibTeX entry.
        booktitle (`str`, *optional*), series (`str`, *optional*), journal (`str`, *optional*), volume (`str`, *optional*):
            Where it was published; without a `booktitle` and a `journal`, on arXiv.
    """

    name: str
    title: str
    author: str
    venue: str
    arxiv: str
    key: str
    booktitle: str = ""
    series: str = ""
    journal: str = ""
    volume: str = ""

    @property
    def authors(self) -> str:
        """The authors in short: `"Oh et al."`."""
        surnames = [name.partition(",")[0] for name in self.author.split(" and ")]
        return " and ".join(surnames) if len(surnames) < 3 else f"{surnames[0]} et al."

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        where = {name: getattr(self, name) for name in ("booktitle", "series", "journal", "volume")}
        if not self.booktitle and not self.journal:
            where["journal"] = f"arXiv preprint arXiv:{self.arxiv}"
        values = {"title": _ACRONYM.sub(r"{\g<0>}", self.title), "author": self._author_lines(), **where}
        values["year"] = self.venue.split()[-1]
        lines = [f"  {name:<9} = {{{value}}}," for name, value in values.items() if value]
        return "\n".join([f"@{'inproceedings' if self.booktitle else 'article'}{{{self.key},", *lines, "}"])

    def _author_lines(self) -> str:
        # Lines break between two authors, not within a name.
        author = re.sub(r"(?<! and) ", "\0", self.author)
        indent = " " * len("  author    = {")
        lines = textwrap.wrap(author, 90, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join(lines).strip().replace("\0", " ")


CAROT = Paper(
    name="CaRot",
    title="Towards Calibrated Robust Fine-Tuning of Vision-Language Models",
    author="Oh, Changdae and Lim, Hyesu and Kim, Mijoo and Han, Dongyoon and Yun, Sangdoo and Choo, Jaegul and "
    "Hauptmann, Alexander and Cheng, Zhi-Qi and Song, Kyungwoo",
    venue="NeurIPS 2024",
    arxiv="2311.01723",
    key="oh2024towards",
    booktitle=_NEURIPS,
    volume="37",
)
FLYP = Paper(
    name="FLYP",
    title="Finetune like you pretrain: Improved finetuning of zero-shot vision models",
    author="Goyal, Sachin and Kumar, Ananya and Garg, Sankalp and Kolter, Zico and Raghunathan, Aditi",
    venue="CVPR 2023",
    arxiv="2212.00638",
    key="goyal2023finetune",
    booktitle=_CVPR,
)
WISE_FT = Paper(
    name="WiSE-FT",
    title="Robust fine-tuning of zero-shot models",
    author="Wortsman, Mitchell and Ilharco, Gabriel and Kim, Jong Wook and Li, Mike and Kornblith, Simon and "
    "Roelofs, Rebecca and Gontijo-Lopes, Raphael and Hajishirzi, Hannaneh and Farhadi, Ali and Namkoong, Hongseok and "
    "Schmidt, Ludwig",
    venue="CVPR 2022",
    arxiv="2109.01903",
    key="wortsman2022robust",
    booktitle=_CVPR,
)
TRACER = Paper(
    name="TRACER",
    title="TRACER: Persistent Regularization for Robust Multimodal Finetuning",
    author="Asadollahzadeh, Hesam and Liu, Feng and Leckie, Christopher and Erfani, Sarah M.",
    venue="ICML 2026",
    arxiv="2605.29380",
    key="asadollahzadeh2026tracer",
    booktitle=_ICML.format("43rd"),
)
MODEL_STOCK = Paper(
    name="Model Stock",
    title="Model Stock: All we need is just a few fine-tuned models",
    author="Jang, Dong-Hwan and Yun, Sangdoo and Han, Dongyoon",
    venue="ECCV 2024",
    arxiv="2403.19522",
    key="jang2024model",
    booktitle="Proceedings of the European Conference on Computer Vision",
)
LINES = Paper(
    name="LiNeS",
    title="LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
    author="Wang, Ke and Dimitriadis, Nikolaos and Favero, Alessandro and Ortiz-Jimenez, Guillermo and "
    "Fleuret, François and Frossard, Pascal",
    venue="ICLR 2025",
    arxiv="2410.17146",
    key="wang2025lines",
    booktitle="International Conference on Learning Representations",
)
CROFT = Paper(
    name="CRoFT",
    title="CRoFT: Robust Fine-Tuning with Concurrent Optimization for OOD Generalization and Open-Set OOD Detection",
    author="Zhu, Lin and Yang, Yifeng and Gu, Qinying and Wang, Xinbing and Zhou, Chenghu and Ye, Nanyang",
    venue="ICML 2024",
    arxiv="2405.16417",
    key="zhu2024croft",
    booktitle=_ICML.format("41st"),
    series="Proceedings of Machine Learning Research",
    volume="235",
)
CLIP_ADAPTER = Paper(
    name="CLIP-Adapter",
    title="CLIP-Adapter: Better Vision-Language Models with Feature Adapters",
    author="Gao, Peng and Geng, Shijie and Zhang, Renrui and Ma, Teli and Fang, Rongyao and Zhang, Yongfeng and Li, "
    "Hongsheng and Qiao, Yu",
    venue="IJCV 2024",
    arxiv="2110.04544",
    key="gao2024clipadapter",
    journal="International Journal of Computer Vision",
    volume="132",
)
TIP_ADAPTER = Paper(
    name="Tip-Adapter",
    title="Tip-Adapter: Training-Free Adaption of CLIP for Few-Shot Classification",
    author="Zhang, Renrui and Zhang, Wei and Fang, Rongyao and Gao, Peng and Li, Kunchang and Dai, Jifeng and Qiao, Yu "
    "and Li, Hongsheng",
    venue="ECCV 2022",
    arxiv="2207.09519",
    key="zhang2022tip",
    booktitle="European Conference on Computer Vision",
)
LP_FT = Paper(
    name="LP-FT",
    title="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
    author="Kumar, Ananya and Raghunathan, Aditi and Jones, Robbie and Ma, Tengyu and Liang, Percy",
    venue="ICLR 2022",
    arxiv="2202.10054",
    key="kumar2022finetuning",
    booktitle=_ICLR,
)
L2_SP = Paper(
    name="L2-SP",
    title="Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    author="Li, Xuhong and Grandvalet, Yves and Davoine, Franck",
    venue="ICML 2018",
    arxiv="1802.01483",
    key="li2018explicit",
    booktitle=_ICML.format("35th"),
)
CAR_FT = Paper(
    name="CAR-FT",
    title="Context-Aware Robust Fine-Tuning",
    author="Mao, Xiaofeng and Chen, Yuefeng and Jia, Xiaojun and Zhang, Rong and Xue, Hui and Li, Zhao",
    venue="IJCV 2024",
    arxiv="2211.16175",
    key="mao2024context",
    journal="International Journal of Computer Vision",
    volume="132",
)
LIPSUM_FT = Paper(
    name="Lipsum-FT",
    title="Lipsum-FT: Robust Fine-Tuning of Zero-Shot Models Using Random Text Guidance",
    author="Nam, Giung and Heo, Byeongho and Lee, Juho",
    venue="ICLR 2024",
    arxiv="2404.00860",
    key="nam2024lipsum",
    booktitle=_ICLR,
)
SPD = Paper(
    name="SPD",
    title="Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models",
    author="Tian, Junjiao and Huang, Chengyue and Kira, Zsolt",
    venue="NeurIPS 2024",
    arxiv="2411.01713",
    key="tian2024rethinking",
    booktitle=_NEURIPS,
    volume="37",
)
#: Those of optimizers that are not Transformers', by the name that `optim` takes.
OPTIMIZER_PAPERS = {"spd": SPD}


@dataclass(frozen=True)
class MethodFacts:
    """
    How a card describes a method.

    Attributes:
        label (`str`): Its name in a table.
        summary (`str`): What it does.
        papers (`tuple[Paper, ...]`): The papers to cite.
        how (`str`, *optional*): How it continues a sentence that begins with the name of the model, where not in the
            usual way.
        trains (`bool`, *optional*, defaults to `True`): Whether training images were used at all.
    """

    label: str
    summary: str
    papers: tuple[Paper, ...]
    how: str = ""
    trains: bool = True

    @property
    def phrase(self) -> str:
        """How the method continues a sentence that begins with the name of the model."""
        return self.how or f"fine-tuned with {self.label}"


#: By short name, for cards, which know of no Trainer; a class of another method adds itself.
METHOD_FACTS = {
    "carot": MethodFacts(
        "CaRot",
        "CaRot trains both towers with the contrastive loss on images and captions (as FLYP), keeps the visual "
        "projection near orthogonality, and distils from a moving average of its own weights.",
        (CAROT, FLYP),
    ),
    "tracer": MethodFacts(
        "TRACER",
        "TRACER trains both towers with the contrastive loss on images and captions (as FLYP), and distils, by features and "
        "by the similarities within a batch, from an average of its own weights over the whole run, in which the start and "
        "the present count most. Of the paper's four terms of distillation two are used.",
        (TRACER, FLYP),
    ),
    "flyp": MethodFacts(
        "FLYP", "FLYP trains both towers with the contrastive loss of pretraining on images and captions.", (FLYP,)
    ),
    "ft": MethodFacts(
        "FT",
        "Ordinary fine-tuning trains the image tower and a linear head, started from the zero-shot classifier, with "
        "cross-entropy; it is the baseline of WiSE-FT.",
        (WISE_FT,),
        how="fine-tuned in the ordinary way (FT)",
    ),
    "lp": MethodFacts(
        "LP",
        "Linear probing keeps both towers frozen and trains a linear head on the image features with cross-entropy.",
        (LP_FT,),
        how="with a linear probe (LP)",
    ),
    "lp_ft": MethodFacts(
        "LP-FT",
        "LP-FT fits a linear head on the frozen features by logistic regression, and fine-tunes the image tower and that head "
        "with cross-entropy.",
        (LP_FT,),
    ),
    "l2_sp": MethodFacts(
        "L2-SP",
        "L2-SP is ordinary fine-tuning with a penalty on the squared distance of the weights from where they started.",
        (L2_SP, LP_FT),
    ),
    "car_ft": MethodFacts(
        "CAR-FT",
        "CAR-FT is ordinary fine-tuning that keeps what the zero-shot model says of the context of each image: the "
        "distribution over prompt templates.",
        (CAR_FT,),
    ),
    "lipsum_ft": MethodFacts(
        "Lipsum-FT",
        "Lipsum-FT is ordinary fine-tuning that keeps the similarities of images to random texts at what the zero-shot model "
        "gives.",
        (LIPSUM_FT,),
    ),
    "wise_ft": MethodFacts(
        "WiSE-FT",
        "WiSE-FT interpolates the weights of the zero-shot and of a fine-tuned model.",
        (WISE_FT,),
        how="interpolated with its fine-tuned self (WiSE-FT)",
    ),
    "model_stock": MethodFacts(
        "Model Stock",
        "Model Stock merges several models that were fine-tuned from one start: each tensor lies between the start and their "
        "mean, the nearer to the mean the more their changes agree in direction.",
        (MODEL_STOCK,),
        how="merged from its fine-tuned selves (Model Stock)",
    ),
    "lines": MethodFacts(
        "LiNeS",
        "LiNeS keeps a share of what fine-tuning changed that grows with depth, from alpha in the first layer of each tower to "
        "all in the last, and alpha of what lies outside of layers.",
        (LINES,),
        how="drawn back to its start layer by layer after fine-tuning (LiNeS)",
    ),
    "croft": MethodFacts(
        "CRoFT",
        "CRoFT keeps both towers frozen and trains a linear adapter on their image and text features: with cross-entropy, "
        "also on features that a learned generator shifts (worst-case covariate shift), and with a penalty on the gradient "
        "of the energy, the score that tells unseen classes. Where features end in a linear map, their adapter is merged into it.",
        (CROFT,),
    ),
    "clip_adapter": MethodFacts(
        "CLIP-Adapter",
        "CLIP-Adapter keeps both towers frozen and trains two layers on the image embeddings with cross-entropy, mixed with "
        "the original embeddings before the zero-shot classifier. The adapter is in `head.safetensors`; the plain model of "
        "the folder is the unchanged encoder.",
        (CLIP_ADAPTER,),
        how="with a trained CLIP-Adapter",
    ),
    "tip_adapter": MethodFacts(
        "Tip-Adapter",
        "Tip-Adapter trains nothing: it adds to the zero-shot logits the votes of a cache of labelled images, weighted by how "
        "near their embeddings are. The cache is in `head.safetensors`; the plain model of the folder is the unchanged encoder.",
        (TIP_ADAPTER,),
        how="with a Tip-Adapter cache",
    ),
    "tip_adapter_f": MethodFacts(
        "Tip-Adapter-F",
        "Tip-Adapter adds to the zero-shot logits the votes of a cache of labelled images, weighted by how near their "
        "embeddings are; Tip-Adapter-F trains the keys of the cache with cross-entropy and keeps both towers frozen. The cache "
        "is in `head.safetensors`; the plain model of the folder is the unchanged encoder.",
        (TIP_ADAPTER,),
        how="with a trained Tip-Adapter cache",
    ),
    "carot+croft": MethodFacts(
        "CaRot + CRoFT",
        "CaRot trains both towers with the contrastive loss on images and captions, keeps the visual projection near "
        "orthogonality, and distils from a moving average of its own weights; CRoFT's adapters, generator of shifted "
        "features and penalty on the gradient of the energy are trained along with them. This combination is "
        "hf_robustft's own: neither paper contains it.",
        (CAROT, FLYP, CROFT),
        how="fine-tuned with CaRot and CRoFT together",
    ),
    "covariance_anchor": MethodFacts(
        "Covariance anchor",
        "It trains both towers with the contrastive loss on images and captions, distils from a moving average of its own "
        "weights as CaRot does, and keeps the covariance of the image features of a batch near that average's, in place of "
        "CaRot's constraint on the visual projection. It is hf_robustft's own and in no paper.",
        (CAROT, FLYP),
        how="fine-tuned with a covariance anchor",
    ),
    "zero_shot": MethodFacts(
        "zero-shot",
        "There was no training: the weights are those of the start.",
        (),
        how="not fine-tuned",
        trains=False,
    ),
}
